"""Tables, curves and overlays, made from files on disk; the only room where figures are drawn."""

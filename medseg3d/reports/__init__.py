"""Tables, curves and overlays, made from files on disk; the only package that draws figures."""

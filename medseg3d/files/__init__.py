"""The disk: files written whole or not at all, bytes read once and verified, folders listed, archives unpacked."""

"""Who trains: this process, or processes of this machine."""

"""`make soak`: all of Tidegate under mixed load while everything is changed and killed; every request is accounted for."""

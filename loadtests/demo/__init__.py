"""`make demo`: all of Tidegate on one machine with real models, real traffic and a summary that counts."""

"""What the command line tools do; ``tools/`` only parses arguments."""

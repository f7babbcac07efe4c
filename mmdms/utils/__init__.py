"""What the tools share: configs, checkpoints, launching, the command line."""

"""The drop-in task classes: configuration, module and parameters."""

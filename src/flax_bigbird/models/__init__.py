"""The task classes: a configuration, a linen module and its parameters, with typed outputs."""

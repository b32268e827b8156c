"""Training on several devices and several hosts: meshes, sharded parameters, processes.

`mesh_options.py` parses the option `mesh`, `mesh.py` creates the mesh, `parameter_sharding.py` says
which parameter is split along which axes, `batch_sharding.py` does the same for batches, and
`processes.py` holds what several processes agree on.
"""

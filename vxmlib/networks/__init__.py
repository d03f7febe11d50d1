"""Networks that voxelmorph 0.2 does not have, with the interface of VxmDense."""

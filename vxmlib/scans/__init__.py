"""Register two scans of your own, from files to files that ANTs, ITK and 3D Slicer read."""

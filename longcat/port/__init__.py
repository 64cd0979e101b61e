"""From CUDA to Ascend: what a repository has to change, the part of it that can be changed, and whether it then computes the same."""

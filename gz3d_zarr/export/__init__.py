"""What a store is turned into: FITS, Multimodal Universe HDF5, PyTorch, Hugging Face."""

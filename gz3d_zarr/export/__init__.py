"""Export a store to FITS and Multimodal Universe HDF5; load it in PyTorch and Hugging Face."""

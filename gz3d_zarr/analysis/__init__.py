"""The methods of the accessor ``ds.gz3d``."""

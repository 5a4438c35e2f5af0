"""Process groups, memory allocation and matrix products: how the machine is used."""

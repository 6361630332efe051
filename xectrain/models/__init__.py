"""The networks: one encoder and what is built on it (regressor, masked autoencoder, inpainter).

`xectrain.config.networks` needs no torch; every other module here does.
"""

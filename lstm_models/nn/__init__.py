"""The networks: the LSTM written from its equations, its variants, and what surrounds them."""

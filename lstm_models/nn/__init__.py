"""Networks: the hand-built LSTM and its variants, the heads, replicas, export and introspection."""

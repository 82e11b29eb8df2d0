"""Configurations of comparisons that run in seconds."""

# changes to the tutorial or parity recipe: two epochs, then two more
TINY = (
    "contenders.hand_built.training.max_epochs=2",
    "contenders.hand_built.training.log_every_n_steps=1",
    "contenders.hand_built.fine_tuning.max_epochs=4",
    "contenders.built_in.training.max_epochs=2",
    "contenders.built_in.training.log_every_n_steps=1",
    "contenders.built_in.fine_tuning.max_epochs=4",
)
# a training with dropout, shuffling and periodic checkpoints
SMALL = """
data: {kind: table, path: "sample:co2.csv", time: week, target: co2, missing: interpolate, context_length: 26,
       horizon: 4}
contenders:
  hand_built:
    model: {hidden_size: 6, dropout: 0.2, num_layers: 2}
    training: {max_epochs: 12, batch_size: 32, shuffle: true, num_threads: 1, log_every_n_steps: 1,
               checkpoint_every_n_steps: 20}
    fine_tuning: {max_epochs: 13}
"""

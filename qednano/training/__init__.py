"""One engine for SFT and RL: packing, attention, chunked log-probs, optimizer, checkpoints, export."""

"""Reinforcement learning: rollouts, the sample stream, advantages, losses, weight sync."""

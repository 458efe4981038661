"""Reinforcement learning: rollouts, the sample stream between actor and trainer, advantages, losses, weight sync."""

"""dipod: reinforcement-learning post-training of diffusion and flow policies with a bound that stays tight."""

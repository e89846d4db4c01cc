"""How the advantage weighs the proxy: surrogates and baselines, as pure functions."""

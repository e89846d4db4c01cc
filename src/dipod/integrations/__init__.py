"""The library's policies and algorithms inside other people's training loops."""

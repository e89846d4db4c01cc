"""Control: flow policies that act in environments, trained by the same Algorithms 1 to 3."""

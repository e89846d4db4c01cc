"""GSM8K, MATH, Countdown and Sudoku as text: where problems come from, how they are asked, rewarded and graded."""

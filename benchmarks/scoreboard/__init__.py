"""The pains that this project is made against, row by row, beside what others do with them."""

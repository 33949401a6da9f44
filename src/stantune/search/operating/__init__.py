"""What those who run searches see of them and take out of them."""

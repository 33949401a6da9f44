"""Reports: numbers first, then what draws them."""

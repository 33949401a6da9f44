"""The operations of STAN and of the built-in networks in native code; without it the plain-PyTorch forms do them."""

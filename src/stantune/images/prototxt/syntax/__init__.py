"""Protobuf's text format and Caffe's messages in it."""

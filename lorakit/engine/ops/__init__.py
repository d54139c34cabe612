"""What is computed: autograd functions, without a word on how a model is built."""

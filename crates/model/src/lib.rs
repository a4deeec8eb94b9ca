//! The LSTM, its kernels, training, checkpoints, evaluation and decoding.

"""From a checkpoint's files to tensors on the device."""

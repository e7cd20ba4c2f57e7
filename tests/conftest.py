"""What all tests share: hypothesis without a clock or chance, and one thread.

The tests' tensors are small: more threads cost more than they give, several times more on a machine that is shared.
"""

import torch
from hypothesis import settings

settings.register_profile("jensen", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("jensen")
torch.set_num_threads(1)

import sys

import numpy as np

SPLITS = {'train': 700, 'calib': 100, 'val': 100, 'test': 500}
VERSION='1.0.0'; HEIGHT_PX, WIDTH_PX = 192, 256
CLASS_NAMES = tuple('abcdefghijk'); CLASS_COLORS = tuple((i*20, 255-i*20, i) for i in range(11))
def sample(split, index):
    rng=np.random.default_rng((list(SPLITS).index(split), index))
    l=rng.integers(0,12,(12,16)).astype(np.uint8); l[l==11]=255
    l=l.repeat(16,0).repeat(16,1)
    im=(np.where(l==255,0,l)*20)[...,None]+rng.integers(0,30,(192,256,3))
    return im.astype(np.uint8), l

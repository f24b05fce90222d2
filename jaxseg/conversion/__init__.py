"""From a trained network to one that holds no float (`numbers.NumbersArch.compute == 'int8'`).

steps                                   which values share a step, and what every operation reads
exact                                   a network trained on fixed grids, code for code
ranges -> calibrated                    any other, by how large its values are on some images
"""

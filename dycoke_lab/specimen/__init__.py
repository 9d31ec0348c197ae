"""The specimen: a tiny video LLM, trained to be looked through.

Biologists study a specimen under the microscope: one small example, prepared so that its parts can be seen.
Ours is a stock LLaVA-OneVision model of 1 M parameters, trained on short synthetic videos to describe what
they show. It runs on a laptop's CPU in a second, its right answers are known, and so is the place of the
video where each word is to be found. What a large model does with its visual tokens can then be seen, step by
step.
"""

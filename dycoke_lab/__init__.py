from dycoke_lab._torchvision import ensure_torchvision

ensure_torchvision()

"""Time and memory at published shapes, measured and predicted; runs on a machine with torch and transformers
alone.
"""

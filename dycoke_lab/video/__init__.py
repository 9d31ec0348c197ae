"""Read a video and put it into a chat prompt: PyAV decodes, the model's own processor does the rest."""

from dycoke_lab.video.frames import Video, even_indices
from dycoke_lab.video.prompts import chat, on_model, prompt
from dycoke_lab.video.reading import read_video, video_paths

__all__ = ["Video", "chat", "even_indices", "on_model", "prompt", "read_video", "video_paths"]

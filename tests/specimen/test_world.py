import torch

from dycoke_lab.specimen.world import COLOURS, make_videos


def test_same_seed_same_videos() -> None:
    first, second = (make_videos(2, 3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)
    assert first.pixels.shape == (2, 12, 3, 32, 32)


def test_actors_are_where_the_truth_says() -> None:
    videos = make_videos(20, 5, torch.Generator().manual_seed(6))
    paint = torch.tensor(list(COLOURS.values()))
    cells = videos.pixels.unfold(3, 8, 8).unfold(4, 8, 8)  # videos, frames, 3, 4, 4, 8, 8
    for video in range(20):
        for frame in range(20):
            shown = videos.actor[video, frame]
            assert sorted(shown[shown >= 0].tolist()) == sorted(set(shown[shown >= 0].tolist()))
            for cell, actor in enumerate(shown.tolist()):
                pixels = cells[video, frame, :, cell // 4, cell % 4].flatten(1).T
                if actor >= 0:
                    colour = paint[videos.colour[video, videos.scene[video, frame], actor]]
                    assert ((pixels - colour).abs().amax(1) < 0.01).sum() >= 12  # the thinnest shape
                else:
                    assert pixels.max() < 0.65  # dull: background only
        for scene in range(5):
            assert {0, 1, 2, 3} <= set(videos.actor[video, videos.scene[video] == scene].flatten().tolist())


def test_actors_move_in_every_frame_and_the_background_does_not() -> None:
    videos = make_videos(10, 3, torch.Generator().manual_seed(7))
    cells = (
        videos.pixels.unfold(3, 8, 8).unfold(4, 8, 8).permute(0, 1, 3, 4, 2, 5, 6).flatten(4).flatten(2, 3)
    )
    shown = videos.actor >= 0
    for back in (1, 2):
        change = (cells[:, back:] - cells[:, :-back]).abs().amax(-1)
        assert change[shown[:, back:]].min() > 0.3
        assert change[~shown[:, back:]].max() < 0.15  # noise

"""What a panel does in the page itself, without the kernel: it reports clicks, reads "0,3" as 0.3, and says
so when its kernel is gone."""

from __future__ import annotations

CLICK = "dycoke-click"
GONE = "This panel has lost its kernel: run its cell again."
# of a number typed beside a slider ipywidgets reads only what precedes a comma, so it gets a point instead,
# before it looks
_SCRIPT = f"""
const start = (mark, tries) => {{
    const panel = mark.closest('.dycoke-panel');
    const image = panel && panel.querySelector('.widget-image');
    if (!image) return tries && setTimeout(start, 50, mark, tries - 1);
    if (panel.dataset.dycoke) return;
    panel.dataset.dycoke = 'started';
    image.addEventListener('click', event => {{
        const box = image.getBoundingClientRect();
        const text = panel.querySelector('.{CLICK} input');
        const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
        text.value = [x.toFixed(5), y.toFixed(5), Date.now()].join(' ');
        text.dispatchEvent(new Event('input', {{bubbles: true}}));
        text.dispatchEvent(new Event('change', {{bubbles: true}}));
    }});
    const point = event => {{
        const readout = event.target;
        if (!readout.classList || !readout.classList.contains('widget-readout')) return;
        if (event.type === 'keydown' && event.key !== 'Enter') return;
        if (readout.textContent.includes(','))
            readout.textContent = readout.textContent.replace(',', '.');
    }};
    panel.addEventListener('keydown', point, true);
    panel.addEventListener('blur', point, true);
}};
start(this, 200);
"""
_STYLE = f"""
.dycoke-panel .widget-image {{ cursor: pointer; }}
.dycoke-panel.jupyter-widgets-disconnected::before {{
    content: '{GONE}'; font: bold 1.2em sans-serif; color: #b40426; padding: 4px; }}
.dycoke-panel.jupyter-widgets-disconnected > * {{ opacity: 0.5; }}
"""
# a script in a widget's HTML does not run; a picture that fails to load does something
PAGE_SIDE = (
    f"<style>{_STYLE}</style>"
    f'<img src="data:," alt="" style="display:none" onerror="{_SCRIPT.replace(chr(10), " ")}">'
)


def clicked_at(text: str) -> tuple[float, float] | None:
    """Return what the page has written about a click: across and down the picture, 0 to 1."""
    try:
        across, down, _ = map(float, text.split())
    except ValueError:
        return None
    return across, down

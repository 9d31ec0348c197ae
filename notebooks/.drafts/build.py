import nbformat as nbf, re, sys
from pathlib import Path
def build(path, name):
    text=Path(path).read_text(); cells=[]
    for n,part in enumerate(re.split(r"^# %% ?", text, flags=re.M)[1:]):
        kind,_,body=part.partition("\n"); body=body.strip("\n")
        tags=[t for t in kind.split() if t not in("md","code")]
        c=nbf.v4.new_markdown_cell(body) if kind.startswith("md") else nbf.v4.new_code_cell(body)
        c["id"]=f"cell-{n}"
        if tags: c["metadata"]["tags"]=tags
        cells.append(c)
    nb=nbf.v4.new_notebook(cells=cells,metadata={"kernelspec":{"display_name":"Python 3 (ipykernel)","language":"python","name":"python3"},"language_info":{"name":"python"}})
    nbf.write(nb,f"/tmp/wt/notebooks/{name}.ipynb")
for a in sys.argv[1:]: build(a, Path(a).stem)

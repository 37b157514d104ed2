"""From a real image file to a mask, boxes and scores of regions, as a script."""

from importlib.resources import files
from tempfile import mkdtemp

import napari_xt as xt

scene = files("napari_xt") / "samples" / "yellowstone.ome.tif"
image = xt.open_image(str(scene))
model = xt.load_model("canopy")
print(xt.plan(image, model))

out = f"{mkdtemp()}/yellowstone.xt.zarr"
prediction = xt.predict(image, model, out=out, roi="0,1024,1024,2048")  # y0,x0,y1,x1; without roi: all of it
print(prediction.boxes.head())
print(prediction.scores.groupby("class").size())
print(prediction.area())

again = xt.open_prediction(out, threshold=0.5)  # a threshold is applied on reading
print(len(prediction.boxes), len(again.boxes))
image.close()

# %% [markdown]
# # A scene in decibels, and what its classes look like

# %%
import matplotlib.pyplot as plt

import sartutorial as st

view = st.read_db("scene.tif", max_size=512)
classes = st.read_classes("labels.tif", max_size=512)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
st.show_backscatter(view, left)
index = classes.legend.to_index(classes.ids)
for i, name in enumerate(classes.legend.names):
    right.hist(view.db[index == i], bins=60, histtype="step", density=True, label=name)
right.legend(title=f"{view.quantity} [dB]")

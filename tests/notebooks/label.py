# %% [markdown]
# # Patches of any scene with any land cover

# %%
import sartutorial as st

scene = st.downsample("scene.tif", "half")
labels = st.label(scene, "worldcover.tif", "labels", legend="worldcover")
st.cut(scene, labels, "pairs", size=64, max_void=0.1)
index = st.read_index("pairs")
index.filter(like="n_").sum()

# %%
first = st.Store("pairs", index)
st.show_backscatter(first.sar(0))
st.show_classes(st.read_classes(labels))

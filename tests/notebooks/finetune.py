# %% [markdown]
# # From somebody's encoder to a map of ours

# %%
import sartutorial as st

encoder, description = st.load_encoder("encoder.safetensors")
print(description["method"], sum(p.numel() for p in encoder.parameters()), "weights")
model = st.finetune("patches", "model", encoder="encoder.safetensors", epochs=1)
print(st.evaluate("patches", model))
land = st.predict("scene.tif", model, "map.tif")

# %%
st.show_classes(st.read_classes(land, max_size=512))
st.web_map({"land cover": land})

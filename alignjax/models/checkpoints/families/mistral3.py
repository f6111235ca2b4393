"""Mistral Small 3.1 and 3.2, of text and images; their text part is a Mistral."""

from alignjax.models.checkpoints.families import composite

COMPOSITE = composite.Composite(
    text="mistral",
    architecture="MistralForCausalLM",
    fields=(
        "image_token_index",
        "projector_hidden_act",
        "vision_feature_layer",
        "multimodal_projector_bias",
        "spatial_merge_size",
    ),
)

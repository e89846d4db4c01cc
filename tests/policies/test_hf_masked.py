"""Masked language models of transformers: their own logits, whatever the padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dipod.errors import UserError
from dipod.policies.hf_masked import HFMasked
from dipod.policies.tokens import Tokens

transformers: Any = pytest.importorskip("transformers")

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}


def build_bert() -> Any:
    return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, hidden_dropout_prob=0.3))


def build_modernbert() -> Any:
    config = transformers.ModernBertConfig(
        **SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, local_attention=4
    )
    return transformers.ModernBertForMaskedLM(config)


def build_roberta() -> Any:
    return transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SIZES, pad_token_id=0))


def build_distilbert() -> Any:
    sizes = {"vocab_size": 50, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 40}
    return transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**sizes, sinusoidal_pos_embds=True))


@pytest.fixture(params=[build_bert, build_modernbert, build_roberta, build_distilbert])
def network(request: pytest.FixtureRequest) -> HFMasked:
    model = request.param().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.3, generator=generator)
    return HFMasked(model)


def own_logits(network: HFMasked, ids: list[int]) -> Tensor:
    """The forward pass of transformers on one sequence without padding, [T, V]."""
    logits: Tensor = network.model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0]
    return logits.detach()


def padded(rows: list[list[int | None]]) -> Tokens:
    valid = torch.tensor([[token is not None for token in row] for row in rows])
    return Tokens(torch.tensor([[0 if token is None else token for token in row] for row in rows]), valid)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_logits_are_those_of_transformers(network: HFMasked) -> None:
    encoded = network.encode(Tokens.full(torch.tensor([[7, 8, 9]])))
    hidden = network(Tokens.full(torch.tensor([[10, 11], [12, 13]])), None, encoded, torch.tensor([0, 0]))
    logits = network.head(hidden)
    close(logits[0], own_logits(network, [7, 8, 9, 10, 11])[3:])
    close(logits[1], own_logits(network, [7, 8, 9, 12, 13])[3:])
    close(network.head(network(Tokens.full(torch.tensor([[10, 11]]))))[0], own_logits(network, [10, 11]))


def test_padding_changes_nothing(network: HFMasked) -> None:
    encoded = network.encode(padded([[None, None, 7, 8], [5, 6, 7, 8]]))
    completions = padded([[10, None, 11, 12], [13, 14, None, None]])
    logits = network.head(network(completions, None, encoded, torch.tensor([0, 1])))
    close(logits[0, [0, 2, 3]], own_logits(network, [7, 8, 10, 11, 12])[2:])
    close(logits[1, :2], own_logits(network, [5, 6, 7, 8, 13, 14])[4:])


def test_only_the_places_asked_for(network: HFMasked) -> None:
    completions, at = padded([[10, None, 11], [13, 14, None]]), torch.tensor([[2, 0], [1, 0]])
    every = network(completions)
    torch.testing.assert_close(network(completions, at), torch.stack([every[0, [2, 0]], every[1, [1, 0]]]))


def test_gradients_reach_every_weight_that_logits_depend_on(network: HFMasked) -> None:
    ids = torch.tensor([[10, 11, 12]])
    network.head(network(Tokens.full(ids))).square().sum().backward()
    through = {name: p.grad.clone() for name, p in network.model.named_parameters() if p.grad is not None}
    network.zero_grad()
    network.model(input_ids=ids).logits.square().sum().backward()
    own = {name: p.grad for name, p in network.model.named_parameters() if p.grad is not None}
    assert through.keys() == own.keys()
    for name, gradient in own.items():
        torch.testing.assert_close(through[name], gradient, atol=1e-4 * float(gradient.abs().max()) + 1e-6, rtol=1e-3)


def gradients(network: HFMasked, tokens: Tokens) -> dict[str, Tensor]:
    network.zero_grad()
    network.head(network(tokens, torch.tensor([[1, 0]]))).square().sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tokens", [Tokens.full(torch.tensor([[10, 11, 12]])), padded([[None, 10, 11]])])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_the_same_with_checkpointing(network: HFMasked, tokens: Tokens, training: bool) -> None:
    network.train(training)
    torch.manual_seed(0)
    plain = gradients(network, tokens)
    network.gradient_checkpointing = True
    torch.manual_seed(0)
    torch.testing.assert_close(gradients(network, tokens), plain, atol=0.0, rtol=0.0)


def test_checkpointing_computes_every_block_twice_and_leaves_it_as_it_was(network: HFMasked) -> None:
    """In evaluation mode too; without gradients once."""
    calls: list[int] = []
    inner = [m for name, m in network.named_modules() if name.endswith(("output.dense", "mlp.Wo", "ffn.lin2"))]
    for module in inner:
        module.register_forward_pre_hook(lambda *_: calls.append(1))
    passes = len(inner)
    assert passes >= SIZES["num_hidden_layers"]
    network.gradient_checkpointing = True
    network(Tokens.full(torch.tensor([[1, 2, 3]]))).sum().backward()
    assert len(calls) == 2 * passes
    with torch.no_grad():
        network(Tokens.full(torch.tensor([[1, 2, 3]])))
    assert len(calls) == 3 * passes
    assert not [name for name, module in network.named_modules() if "forward" in vars(module)]


def test_the_output_layer_is_left_as_it_was(network: HFMasked) -> None:
    network(Tokens.full(torch.tensor([[10, 11]])))
    assert own_logits(network, [10, 11]).shape == (2, 50)
    assert network.config.vocab_size == 50


def test_tokens_stand_where_they_say(network: HFMasked) -> None:
    """As transformers' own ``position_ids``, RoBERTa's counted from behind its padding; a line is what it was."""
    kind = network.config.model_type
    first = network.config.pad_token_id + 1 if kind == "roberta" else 0
    prompt, completion, places = [7, 8, 9], [10, 11], [3, 0, 5, 9, 2]
    prompts = Tokens(*(torch.tensor([row]) for row in (prompt, [True] * 3, places[:3])))
    completions = Tokens(*(torch.tensor([row]) for row in (completion, [True] * 2, places[3:])))
    found = network.head(network(completions, None, network.encode(prompts), torch.tensor([0])))[0]
    ids = torch.tensor([prompt + completion])
    own = network.model(input_ids=ids, position_ids=torch.tensor([places]) + first).logits[0, 3:].detach()
    close(found, own)
    assert not torch.allclose(found, own_logits(network, prompt + completion)[3:])
    line = Tokens(completions.ids, completions.valid, torch.tensor([[3, 4]]))
    again = network.head(network(line, None, network.encode(Tokens.full(prompts.ids)), torch.tensor([0])))[0]
    close(again, own_logits(network, prompt + completion)[3:])


def test_padding_does_not_move_tokens_that_say_where_they_stand(network: HFMasked) -> None:
    completions = padded([[10, None, 11], [13, 14, None]])
    given = Tokens(completions.ids, completions.valid, torch.tensor([[4, 0, 2], [1, 6, 0]]))
    logits = network.head(network(given))
    for row, kept, places in ((0, [0, 2], [4, 2]), (1, [0, 1], [1, 6])):
        alone = Tokens(*(torch.tensor([some]) for some in (completions.ids[row, kept].tolist(), [True] * 2, places)))
        close(logits[row, kept], network.head(network(alone))[0])


def test_a_model_without_position_ids_says_so(network: HFMasked, monkeypatch: pytest.MonkeyPatch) -> None:
    own = network.model.forward

    def forward(input_ids: Tensor, attention_mask: Tensor) -> Any:
        return own(input_ids, attention_mask)

    monkeypatch.setattr(network.model, "forward", forward)
    tokens = Tokens.full(torch.tensor([[10, 11]]))
    network(tokens)
    with pytest.raises(UserError, match=rf"model = '{network.config.model_type}': it takes no position_ids"):
        network(Tokens(tokens.ids, tokens.valid, torch.tensor([[1, 0]])))


def test_what_a_folder_describes_is_built_without_memory(network: HFMasked, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path)
    described = HFMasked.described(tmp_path, network.config.model_type)
    assert {parameter.device.type for parameter in described.parameters()} == {"meta"}
    shapes = [{name: p.shape for name, p in one.named_parameters()} for one in (network, described)]
    assert shapes[0] == shapes[1]
    assert described.vocabulary == network.vocabulary == 50
    assert described.longest == network.longest
    places = {"roberta": 511, "modernbert": 8192}.get(network.config.model_type, 512)
    assert network.longest == places
    if network.config.model_type != "modernbert":  # the limit is where the table ends
        network(Tokens.full(torch.ones(1, places, dtype=torch.long)))
        with pytest.raises((IndexError, RuntimeError)):
            network(Tokens.full(torch.ones(1, places + 1, dtype=torch.long)))


def test_models_that_look_one_way_are_refused() -> None:
    config = transformers.BertConfig(**SIZES, is_decoder=True)
    with pytest.raises(UserError, match="is_decoder = True: give an encoder"):
        HFMasked(transformers.BertForMaskedLM(config))

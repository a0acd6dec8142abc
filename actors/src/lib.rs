//! The actors: one supervised actor per containerVM, layer, image, network, volume.

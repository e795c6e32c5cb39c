"""Restaurant-v0: where do we go for fries? A one-visit Gymnasium environment.

Importing this package registers the environment::

    import gymnasium as gym
    import restaurant_env

    env = gym.make("Restaurant-v0")  # or, without the import: gym.make("restaurant_env:Restaurant-v0")
"""

import gymnasium as gym

from restaurant_env.restaurant import Restaurant, RestaurantEnv, RestaurantVectorEnv

__all__ = ["Restaurant", "RestaurantEnv", "RestaurantVectorEnv"]

if "Restaurant-v0" not in gym.registry:  # Gymnasium warns when an id is registered twice
    gym.register(
        id="Restaurant-v0",
        entry_point="restaurant_env.restaurant:RestaurantEnv",
        vector_entry_point="restaurant_env.restaurant:RestaurantVectorEnv",
    )
